"""Products with the nonzero entries of the first layer's inputs. Dense products are in gemm."""
