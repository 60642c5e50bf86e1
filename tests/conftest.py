from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bars",
        action="store_true",
        help="run the full counts that `make bars` asks for, not the reduced ones",
    )


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """nats-py, surrealdb and grpc.aio are asyncio libraries."""
    return "asyncio"
