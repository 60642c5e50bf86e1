from mesh.bootstrap import run_agent
from services.writer.agent import writer

if __name__ == "__main__":
    run_agent(writer)
