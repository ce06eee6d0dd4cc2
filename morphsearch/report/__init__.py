"""Reports: a record first (plain data, JSON-ready), its drawing second."""
