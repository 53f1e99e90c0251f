"""What services need before they start: secrets, identities, database, broker users.

One provisioner for `wfhub up`, compose and Kubernetes, so that they cannot differ in it.
"""
