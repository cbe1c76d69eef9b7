"""What a run achieved: reward-model tables, the policy's verdicts, and the report."""
