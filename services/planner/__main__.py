from mesh.bootstrap import run_agent
from services.planner.agent import planner

if __name__ == "__main__":
    run_agent(planner)
