"""All of Workflow Hub on one machine: embedded NATS and Postgres, and each service a process."""
