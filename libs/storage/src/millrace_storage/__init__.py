"""One interface over object stores, and the files kept in them."""
