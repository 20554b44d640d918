"""What `loongforge new-plugin` writes: a package that installs, trains and passes its own tests, to be changed into one's own.

`templates/every` is of every plugin, `templates/KIND` of one that brings a component of that kind. They are text, never imported, and what
they name beside the new component (a projector, a language model to train it with) is an example, as in any composition.
"""
