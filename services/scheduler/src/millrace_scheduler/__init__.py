"""The Scheduler service: schedules, and the jobs they create."""
