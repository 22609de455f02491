"""Builder and control-host side of appliance."""

__version__ = "0.1.0"
