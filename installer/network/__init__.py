"""How this host reaches the network, read once and handed to everything that fetches.

``host.read`` looks at the environment and at the files of pip, netrc and the system; nothing else below ``installer`` does.
``connections`` gives the downloader its pools and logins, ``children`` gives each tool the environment it is started with.
"""
