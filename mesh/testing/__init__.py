"""For authors of agents and adapters: contracts, manual clock, real servers."""
