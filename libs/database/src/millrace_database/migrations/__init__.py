"""The history of the schema. What a released migration does is never changed: a later one is added."""
