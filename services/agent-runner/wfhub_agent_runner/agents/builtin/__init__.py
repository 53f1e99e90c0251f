"""The built-in agent: asks a model for tool calls and carries them out, until it calls `finish`.

Standard library only, Python 3.8 or later, packed into one file (archive.py) that runs as
`python -I -S wfhub-agent.pyz` inside a sandbox with the workspace as its current directory. The
sandbox is the fence: no tool here refuses a path or a command.
Environment: OPENAI_BASE_URL (…/v1), OPENAI_API_KEY, WFHUB_PROMPT_FILE, WFHUB_MODEL (unset: the
gateway's default), WFHUB_MAX_STEPS (50), WFHUB_CONTEXT_TOKENS (100000), WFHUB_RETRY_BASE_S (1.0).
What it sends depends on the prompt, the model's answers and the workspace only (no times, no
random ids), so that a recorded session can be replayed.
stdout: one JSON event a line: step, message, tool_call, tool_result, usage, compaction, error,
finish.
Exit codes: 0 finished, 3 step limit, 4 model unreachable or refused, 5 anything else.
"""
