from mesh.bootstrap import run_agent
from services.critic.agent import critic

if __name__ == "__main__":
    run_agent(critic)
