"""What a site may say, as rules that its check on the control host and the roles on every node both apply. Pure.

A value that a role's preflight refuses on every node is refused before any node is touched, by the same function.
`installer.site.rules` walks a site with them and names file, line and key; the filters of the roles name their variables.
"""
