"""Tasks: training examples, target suites, and the source suites in which forgetting is measured."""
