"""The cited brief: message types and pure text functions shared by its four agents.

`planner` ranks passages per aspect of a question, `reader` extracts sentences, `writer` composes
Markdown, `critic` checks every quote against its source. No network, no model: the same question
and the same files give the same brief, byte for byte.
"""
