"""How kernels are compiled and kept on disk. No kernel of the network is here."""
