from mesh.bootstrap import run_gateway

run_gateway()
