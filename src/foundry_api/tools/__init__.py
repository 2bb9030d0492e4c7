"""Functions that a model may call: their description, their calls, and the conversation with them.

- `docstring`: what a docstring says of a function and of its parameters
- `signature`: the JSON schema of the parameters, and arguments of their types
- `definition`: `Tool`, `tool`
- `outcome`: `ToolResult`, `ToolRun`
- `limits`: how far a model may go
- `calling`: one call of a tool, whose failures are told to the model
- `run`: asks, calls and asks again
"""
