"""HTTP: schemas, routes, errors. Knows the engine, never the model."""
