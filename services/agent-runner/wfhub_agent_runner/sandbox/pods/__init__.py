"""The kubernetes backend of the sandbox port: the pod of a Job is the sandbox of one run.

Unproven: it has run against a simulated API server and a kubelet of ours only.
"""
