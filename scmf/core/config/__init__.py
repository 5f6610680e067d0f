"""The sections of a YAML file as typed models, their JSON schema, recipes and overrides."""
