# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a release: each message says what was expected, what was found, what to do.

ReleaseError
├── ContentError             a file or card breaks the release format
├── KeyFileError             a key file is unreadable, too open, or needs a passphrase
├── PublishError             the platform's side: bad repository, missing key, signatures too few
├── PullRefused              the merchant's side: nothing was installed, the active release stays
│   ├── RootNotPinned        no root of trust was pinned, or another one is
│   ├── RootRefused          a root rotation without the threshold of signatures
│   ├── FeedForged           metadata not signed by its role's own keys
│   ├── FeedRolledBack       older metadata than this merchant has already verified
│   ├── FeedMixed            metadata of different moments put together
│   ├── FeedExpired          the feed's signatures have run out (frozen mirror, stopped platform)
│   ├── MetadataTooLong      metadata longer than its bound
│   ├── MetadataMalformed    metadata that is no TUF metadata
│   ├── UnsafeTargetName     a target outside the closed set of names
│   ├── TargetMissing        a signed file that the source doesn't have
│   ├── TargetTooLong        a file longer than signed
│   ├── TargetAltered        a file with other bytes than signed
│   ├── ReleaseChanged       an installed version number now signed with other files
│   ├── UnknownVersion       a version that the feed doesn't list
│   └── SourceUnreachable    no repository there, or too slow
└── InstalledError           a merchant's own installed releases
    ├── NotInstalled         that version is not installed, or none is active
    ├── NothingToRollBackTo  no earlier activation
    └── InstalledAltered     files on disk differ from what was signed
"""


class ReleaseError(Exception):
    """Root of all errors of this room."""


class ContentError(ReleaseError):
    """A file or card breaks the release format."""


class KeyFileError(ReleaseError):
    """A key file is unreadable, too open, or needs a passphrase."""


class PublishError(ReleaseError):
    """A repository is damaged, a key is missing, or signatures are too few."""


class PullRefused(ReleaseError):
    """Nothing was installed; the active release stays as it was."""


class RootNotPinned(PullRefused):
    """No root of trust was pinned, or another one is."""


class RootRefused(PullRefused):
    """A root rotation without the threshold of signatures."""


class FeedForged(PullRefused):
    """Metadata that its role's own keys did not sign."""


class FeedRolledBack(PullRefused):
    """Older metadata than this merchant has already verified."""


class FeedMixed(PullRefused):
    """Metadata of different moments put together."""


class FeedExpired(PullRefused):
    """The feed's signatures have run out."""


class MetadataTooLong(PullRefused):
    """Metadata longer than its bound."""


class MetadataMalformed(PullRefused):
    """Metadata that is no TUF metadata."""


class UnsafeTargetName(PullRefused):
    """A target outside the closed set of names."""


class TargetMissing(PullRefused):
    """A signed file that the source doesn't have."""


class TargetTooLong(PullRefused):
    """A file longer than signed, or a signed size above the format's bound."""


class TargetAltered(PullRefused):
    """A file with other bytes than signed."""


class ReleaseChanged(PullRefused):
    """An installed version number is now signed with other files."""


class UnknownVersion(PullRefused):
    """A version that the feed doesn't list."""


class SourceUnreachable(PullRefused):
    """No repository there, or it answers too slowly."""


class InstalledError(ReleaseError):
    """Something about a merchant's own installed releases."""


class NotInstalled(InstalledError):
    """That version is not installed, or none is active."""


class NothingToRollBackTo(InstalledError):
    """No earlier activation to go back to."""


class InstalledAltered(InstalledError):
    """Files on disk differ from what was signed."""
