"""What every Workflow Hub process shares: messages, subjects, ids, errors, digests, broker."""
