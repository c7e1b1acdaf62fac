"""Run by ``test_mpi`` under mpiexec: the contract of executors, as far as MPI can keep it."""

from neurofm_shards.testing import ExecutorConformance


class TestMPI(ExecutorConformance):
    name = "mpi"
    survives_deaths = False
    ends_hanging_calls = False
