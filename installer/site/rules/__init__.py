"""The rules of the roles (engine.rules), asked of a whole site on the control host, with file, line and key."""
