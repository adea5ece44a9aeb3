"""``pyfi completion bash|zsh|fish``: what a shell needs to complete commands and options."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
      pyfi completion bash > ~/.local/share/bash-completion/completions/pyfi
      pyfi completion zsh > "${fpath[1]}/_pyfi"
      pyfi completion fish > ~/.config/fish/completions/pyfi.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(ctx.find_root().command, {}, "pyfi", "_PYFI_COMPLETE").source())
