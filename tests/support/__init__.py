"""What several test files share. No test stands here, and no test file imports another."""
