"""OpenTelemetry traces: of every exchange that a policy noted as traced, made in the cold process from the journal.

Rules: a worker does nothing for it but note what a client's `traceparent` says. Nothing of OpenTelemetry is imported
unless the environment asks for traces, and then only here.
"""
