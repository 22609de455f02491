"""The state of a node against the baseline: what is in force is asked of kernel, daemons and files, not of the role.

The role ``os_baseline`` writes a policy (controls with their wanted values, waivers); nothing here changes anything.
"""
