"""Named limits of the git side; the unit is the last word of each name.

They bound what a hostile repository or agent can make the runner do, not what is usual.
"""

MIB = 1024**2
GIB = 1024**3

REQUEST_BYTES_MAX = 64 * 1024  # the JSON line that asks the access helper for something
POLICY_BYTES_MAX = 1 * MIB  # the JSON line that tells it what the operator allows
GIT_SETTINGS_BYTES_MAX = 512 * 1024  # of a file of credentials, known hosts or authorities
PACK_BYTES_MAX = 2 * GIB  # of a fetched pack or a bundle (limits.BLOB_BYTES_MAX)
ACCESS_TIMEOUT_S = 600.0  # one request to a user's repository
ACCESS_MEMORY_BYTES_MAX = 4 * GIB  # private memory of the helper; mapped packs do not count
LOCK_WAIT_S = 5.0  # for a ref that another writer has locked
HAVES_MAX = 16  # commits a mirror offers as known; the source uses the first it knows

DEPTH_MAX = 200  # folders within folders: one open directory each
FILES_MAX = 1_000_000  # of one checkout
CHECKOUT_BYTES_MAX = 20 * GIB
CHANGED_FILES_MAX = 100_000  # by one attempt
CHANGED_BYTES_MAX = 1 * GIB
FILE_BYTES_MAX = 256 * MIB  # a changed file is held in memory once

GITIGNORE_BYTES_MAX = 1 * MIB
GITIGNORE_RULES_MAX = 5000

PATCH_BYTES_MAX = 4 * MIB  # the patch is for people; the bundle has everything
PATCH_FILE_BYTES_MAX = 256 * 1024
PATCH_FILE_LINES_MAX = 5000
PATCH_S_MAX = 10.0

TREES_PARSED_MAX = 256  # and TREE_BYTES_REMEMBERED_MAX of each: some 10 MiB, 100 at the very most
TREE_BYTES_REMEMBERED_MAX = 64 * 1024
TREES_REMEMBERED_MAX = 1000  # tree objects in memory while a snapshot is taken
OBJECTS_HELD_BYTES_MAX = 32 * MIB  # new ones in memory before they are written as a pack
LAYER_FILES_MAX = 20_000  # changed since the checkout below: with more it is written whole
LAYERS_MAX = 8  # of one base checkout: each look-up goes through all of them
TREES_KEPT_MAX = 64  # base checkouts and set-up layers kept for the next attempt
SETUP_LEFT_MAX = 100  # paths named that set-up commands changed and that were put back

# What CI files bring in by name (ci_includes), of a base and a result together. GitLab itself
# allows 150 inclusions.
CI_FILES_READ_MAX = 1000
CI_BYTES_READ_MAX = 4 * MIB
CI_NAMED_MAX = 2000
CI_WILDCARDS_MAX = 200
CI_INCLUSIONS_DEEP_MAX = 100
CI_YAML_DEPTH_MAX = 100
CI_LOOKED_AT_MAX = 50_000  # entries of folders, for wildcards
