"""Agents that book things, and the world they book them in."""

from datetime import timedelta

from mesh import Agent, Context, Fail, QuestionClosed, Reply, Retry

DAY = timedelta(days=1)


class Shop:
    """The outside world: what was done to it."""

    def __init__(self, *, broken: int = 0) -> None:
        self.did: list[str] = []
        self.broken = broken

    def book(self, what: str) -> str:
        self.did.append(f"book {what}")
        if len(self.did) <= self.broken:
            raise ConnectionError(f"no answer to {len(self.did)}")
        return f"{what} booked"

    def cancel(self, what: str) -> None:
        self.did.append(f"cancel {what}")


def booker(shop: Shop, *, retry: Retry | None = None) -> Agent:
    agent = Agent("booker")

    @agent.on(str, retry=retry)
    async def book(ctx: Context, what: str) -> Reply:
        return Reply(await ctx.step("book", shop.book, what))

    return agent


def asker() -> Agent:
    agent = Agent("asker")

    @agent.on(str)
    async def ask(ctx: Context, what: str) -> Reply | Fail:
        try:
            sure = await ctx.ask(f"book {what}?", bool, expires=DAY)
        except QuestionClosed:
            return Fail("nobody answered")
        who = await ctx.ask("who?", str, expires=DAY, default="anybody")
        return Reply([sure, who])

    return agent


def traveller(shop: Shop) -> Agent:
    agent = Agent("traveller")

    @agent.on(str)
    async def travel(ctx: Context, town: str) -> Reply:
        for what in ("train", "hotel"):
            ctx.compensate(shop.cancel, what)
            await ctx.step(what, shop.book, what)
        await ctx.signal("leave")
        return Reply(town)

    return agent
