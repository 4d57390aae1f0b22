"""The lab: models of the kind *listen* (audio to labels), from recordings to a file that serves."""
