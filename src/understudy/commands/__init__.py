"""The subcommands of `understudy`, a module for each kind of user."""
