"""Word lists of the English that documentation is written in."""

from __future__ import annotations

__all__ = ["AUXILIARIES", "COMMON", "FORMS", "GROUPS", "PARTICLES", "VERBS"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COMMON = _words(
    """
    a about after all also am an and any are as at be been before being between but by can cannot
    could did do does doing down each else ever every for from get gets had has have having he her
    here him his
    how i if in into is it its just like may me might more most much must my no nor not of off
    on one only or other our out over own same shall she should so some such than that the their
    them then there these they this those through to too under up us use used uses using very
    via was way ways we were what when where whether which while who whom whose why will with
    within without would you your work works happen happens
    """
)
"""Words that say nothing about a subject: never searched for."""

PARTICLES = ("out", "up", "off", "down")
"""Words that make one term with the word before: `time out`, `set up`."""

VERBS = _words(
    """
    abort accept acquire add adjust allow allocate append apply arrange ask assert assign
    associate attach attempt avoid become begin belong bind block break build call cancel
    capture cause change check choose clean clear close collect combine come compare compile
    complete compress compute configure connect consider consist construct consume contain
    continue control convert copy count create customise customize deal decide declare decode
    decorate decrease decrement define delete deliver depend describe deserialize destroy detach
    detect determine differ disable discard dispatch display divide do download drop dump emit
    enable encode end enforce ensure enter escape establish evaluate execute exit expand expect
    expire explain expose extend extract fail fetch fill filter find finish fire fix flush
    follow force format forward free gather generate get give go grow guarantee handle happen
    help hide hold identify ignore implement import improve include increase increment indicate
    inherit initialise initialize inject insert inspect install instantiate interpret interrupt
    invoke iterate join keep kill know launch lead leave let limit list listen load locate lock
    log look lose make manage map mark match measure merge mix modify monitor move need
    normalise normalize notify obtain occur offer omit open override pack parse pass pause
    perform permit pick point poll pop prepare preserve prevent print proceed process produce
    protect provide publish pull push put query raise reach read receive recover reduce refer
    register release reload remain remove rename repeat replace report represent request require
    reserve reset resolve resort respond restart restore resume retain retrieve retry return
    reuse revert rewrite run save scan schedule search seek see select send separate serialize
    serve set setup share show shut shutdown signal simulate skip sleep sort specify split start
    stop store strip submit substitute subtract succeed suggest supply support suppress survive
    suspend switch synchronise synchronize take talk tell terminate test throw time track
    transform translate treat trigger truncate try turn undo unlock unpack unregister update
    upgrade upload use validate verify visit wait wake walk want warn watch work wrap write
    yield
    """
)
"""Base forms of the verbs that documentation uses most."""

FORMS = (
    "agree agreed agreement agreements",
    "approve approved approval approvals",
    "buy bought",
    "choose chose chosen choice choices",
    "decide decided decision decisions",
    "deploy deployed deployment deployments",
    "find found",
    "give gave given",
    "keep kept",
    "lead led leader leaders",
    "meet met meeting meetings",
    "own owned owner owners",
    "pay paid payment payments",
    "propose proposed proposal proposals",
    "send sent",
    "spend spent",
    "store stored storage",
    "take took taken",
    "write wrote written",
)
"""Forms of one word that no regular ending explains."""

GROUPS = (
    "begin start launch",
    "block synchronous thread executor",
    "code function callable",
    "concurrent parallel",
    "create make",
    "crash failure fail",
    "delete remove erase",
    "error exception failure",
    "fast quick speed performance",
    "fetch retrieve",
    "folder directory",
    "parameter argument option",
    "safe secure security",
    "size length",
    "stop end terminate finish exit",
)
"""Words that documentation uses for one another."""

AUXILIARIES = _words(
    """
    is are was were be been has have had does did can could may might must shall should will
    would cannot isn aren doesn don won wasn means gives became meant made given
    """
)
"""Verbs that always make a sentence finite."""
