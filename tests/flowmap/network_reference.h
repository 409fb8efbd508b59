// Tests of other folders need it too: see there.
#pragma once

#include "tests/support/network_reference.h"
