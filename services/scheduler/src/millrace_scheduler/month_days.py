"""Which day of its month a day is."""

from calendar import monthrange
from datetime import date

#: In place of the number of a weekday in its month: the last one.
LAST = -1
#: In days.
SHORTEST_MONTH = 28

_DAYS_OF_WEEK = 7


def length_of_month(day: date) -> int:
    """Return how many days the month of a day has."""
    return monthrange(day.year, day.month)[1]


def nths(number: int, length: int) -> tuple[int, ...]:
    """Return which one of its weekday a day is, by its number in a month of `length` days.

    That is 1 to 5, and LAST too for the last one.
    """
    nth = (number - 1) // _DAYS_OF_WEEK + 1
    return (nth, LAST) if number + _DAYS_OF_WEEK > length else (nth,)


def earliest_nth(nth: int) -> int:
    """Return the first day of a month that can be the nth (1 to 5, or LAST) of its weekday."""
    return (SHORTEST_MONTH - _DAYS_OF_WEEK if nth == LAST else (nth - 1) * _DAYS_OF_WEEK) + 1
