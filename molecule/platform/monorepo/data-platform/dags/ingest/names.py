"""Names of this topic, in a module that another topic has, too."""

TOPIC = "ingest"
