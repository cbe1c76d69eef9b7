"""Programs for people: the run itself, annotation, chat."""
