"""The built-ins, registered through the same hooks as anyone's plugin. One module a hook; factories import late."""
