import os
import threading
from pathlib import Path

import pytest
from wfhub_local import state
from wfhub_local.layout import Layout
from wfhub_local.state import State


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "data")
    made.make()
    return made


def test_the_second_stack_on_a_directory_learns_who_has_it(layout: Layout) -> None:
    held = state.acquire(layout)
    with pytest.raises(state.Held) as refused:
        state.acquire(layout)
    assert refused.value.pid == os.getpid()
    os.close(held)
    os.close(state.acquire(layout))


def test_a_look_at_the_lock_is_not_taken_for_a_stack(layout: Layout) -> None:
    os.close(state.acquire(layout))
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            state.is_held(layout)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(20):
            os.close(state.acquire(layout))
    finally:
        stop.set()
        looking.join()


def test_a_state_without_its_stack_is_not_believed(layout: Layout) -> None:
    state.write(layout, State("http://127.0.0.1:1", 1, "t", ready=True))
    assert state.wait_ready(layout, timeout_s=5) is None


def test_the_state_of_a_running_stack_is_found_once_it_is_ready(layout: Layout) -> None:
    held = state.acquire(layout)
    state.write(layout, State("http://127.0.0.1:1", 1, "t"))
    ready = State("http://127.0.0.1:1", 1, "t", ready=True)
    threading.Timer(0.1, state.write, (layout, ready)).start()
    assert state.wait_ready(layout, timeout_s=5) == ready
    os.close(held)


def test_a_stale_state_goes_when_the_directory_is_taken(layout: Layout) -> None:
    state.write(layout, State("http://127.0.0.1:1", 1, "t", ready=True))
    held = state.acquire(layout)
    assert state.read(layout) is None
    os.close(held)


def test_users_of_a_stack_keep_it_from_being_ended(layout: Layout) -> None:
    watch = os.open(layout.users_lock, os.O_RDWR | os.O_CREAT)
    with state.in_use(layout.users_lock), state.in_use(layout.users_lock):
        assert not state.try_sole(watch)
    assert state.try_sole(watch)
    os.close(watch)
