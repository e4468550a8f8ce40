"""An SFTP server on the loopback interface, for tests: python tests/helpers/sftp.py FOLDER PASSWORD [BYTES]

It prints its port. It takes any user with the password, and dies, as a host that loses its power, when so many bytes
have gone through it.
"""

import asyncio
import os
import sys

import asyncssh


class Door(asyncssh.SSHServer):
    """Lets in who knows the password."""

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return password == PASSWORD


class Files(asyncssh.SFTPServer):
    """The folder, for as long as the server lives."""

    through = 0

    def __init__(self, channel: asyncssh.SSHServerChannel) -> None:
        super().__init__(channel, chroot=FOLDER.encode())

    def write(self, file: object, offset: int, data: bytes) -> int:
        done = super().write(file, offset, data)
        self.count(data)
        return done

    def read(self, file: object, offset: int, size: int) -> bytes:
        data = super().read(file, offset, size)
        self.count(data)
        return data

    @classmethod
    def count(cls, data: bytes) -> None:
        cls.through += len(data)
        if LIFE is not None and cls.through > LIFE:
            os._exit(1)


async def serve() -> None:
    """Serve until killed."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    listener = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=Door, server_host_keys=[key], sftp_factory=Files, allow_scp=False
    )
    print(listener.get_port(), flush=True)
    await listener.wait_closed()


if __name__ == "__main__":
    FOLDER, PASSWORD = sys.argv[1:3]
    LIFE = int(sys.argv[3]) if len(sys.argv) > 3 else None
    asyncio.run(serve())
