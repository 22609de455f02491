"""Tenants of a site: the file that names them, and the gateway's configuration that is made from it."""
