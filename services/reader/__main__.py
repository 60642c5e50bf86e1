from mesh.bootstrap import run_agent
from services.reader.agent import reader

if __name__ == "__main__":
    run_agent(reader)
