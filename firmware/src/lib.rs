//! Boot content: ACPI and SMBIOS tables, memory map, kernel loading.
