"""Where a stream goes. Every sink takes the same chunks, keeps its own cursor, and may be given a chunk twice."""
