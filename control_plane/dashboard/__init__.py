"""The dashboard: the management API's things, as pages for a browser.

A page asks the handlers of the management API, and a form calls one of its routes through `door`; neither has rules of
its own on who may do what.
"""
