"""Commands replay_dead_letter and discard_dead_letter: what becomes of a dead letter.

source  | a replay
rpc     | runs the request again as its sender
seal    | asks for the proof again. The task stays failed (final is final): the proof is noted on
        | it, and whoever wants the work published submits the task anew
(turn)  | lets the entity's turn look at it again; so does discarding the letter, since nothing that
        | was accepted may stand still for ever: what still fails is put aside anew

A decided letter stays decided: the same command again changes nothing. A replay that fails leaves
the letter open. What a runner asks again by itself (a claim, a heartbeat), or whose moment has
passed, is not replayed: done late, it would speak for a process that is gone.
Raises: as wfhub_common.dead_letters.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import BaseModel
from wfhub_common import subjects
from wfhub_common.dead_letters import Stored
from wfhub_common.errors import Rejected
from wfhub_common.messages import DeadLetterDecided, DiscardDeadLetter, ReplayDeadLetter

from wfhub_scheduler import sealing
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.dead_letters import LETTERS, RPC, SEAL

DECISIONS = frozenset({"replay_dead_letter", "discard_dead_letter"})
REPLAYABLE = (frozenset(subjects.API_COMMANDS) | {"complete"}) - DECISIONS

Command = Callable[[str, bytes], Awaitable[BaseModel]]  # (sender, body) → the answer


@dataclass(frozen=True)
class Replays:
    core: Core
    commands: dict[str, Command]  # of the requests that this service answers

    async def replay(self, asked: ReplayDeadLetter) -> DeadLetterDecided:
        async def work(tx: Tx) -> DeadLetterDecided:
            return await LETTERS.replay(tx.connection, asked, self._again)

        decided = await self.core.commit(work)
        for bell in (self.core.seals, self.core.workflows, self.core.sweeps):
            bell.ring()  # what was put aside has its turn again
        return decided

    async def discard(self, asked: DiscardDeadLetter) -> DeadLetterDecided:
        async def work(tx: Tx) -> DeadLetterDecided:
            return await LETTERS.discard(tx.connection, asked)

        return await self.core.commit(work)

    async def _again(self, letter: Stored) -> str:
        if letter.source == RPC:
            return await self._rpc_again(letter)
        if letter.source == SEAL:
            proof_id = await sealing.seal_again(self.core, letter.subject)
            return f"sealed as {proof_id}; the task stays failed, submit it anew to publish"
        return "its turn looks at it again"

    async def _rpc_again(self, letter: Stored) -> str:
        command = letter.subject.rpartition(".")[2]
        if command not in REPLAYABLE or command not in self.commands:
            raise Rejected(
                "not-replayable", f"{command} is not done late: discard the letter", status=409
            )
        await self.commands[command](subjects.rpc_sender(letter.subject), letter.body)
        return f"{command} was answered"  # the answer itself may hold what is not to be stored
