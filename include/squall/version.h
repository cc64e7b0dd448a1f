#ifndef SQUALL_VERSION_H
#define SQUALL_VERSION_H
#define SQUALL_VERSION "0.1.0"
#endif
