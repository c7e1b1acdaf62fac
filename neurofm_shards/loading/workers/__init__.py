"""Workers: batches are made in this process, in threads, or in processes."""
