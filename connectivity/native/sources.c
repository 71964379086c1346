// SPDX-License-Identifier: Apache-2.0
#include "native.h"

const char *postern_sources(void)
{
	return POSTERN_SOURCES;
}
