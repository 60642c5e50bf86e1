from mesh.bootstrap import run_gateway

if __name__ == "__main__":
    run_gateway()
